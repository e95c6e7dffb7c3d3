from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path
from django.views.generic import TemplateView

from core.api.views import RootView

admin.site.site_header = "Small NetBox"
admin.site.site_title = "Small NetBox"

urlpatterns = [
    path("favicon.ico", lambda request: HttpResponse(status=204)),  # browsers ask for it
    path("", TemplateView.as_view(template_name="index.html"), name="index"),
    path("admin/", include("webhooks.urls")),
    path("admin/", admin.site.urls),
    path("django-rq/", include("django_rq.urls")),
    path("api/", RootView.as_view(), name="api-root"),
    path("api/circuits/", include("circuits.api.urls")),
    path("api/dcim/", include("dcim.api.urls")),
    path("api/extras/", include("core.api.urls")),  # where NetBox has its tags
    path("api/ipam/", include("ipam.api.urls")),
    path("api/tenancy/", include("tenancy.api.urls")),
    path("api/virtualization/", include("virtualization.api.urls")),
    path("api/webhooks/", include("webhooks.api.urls")),
]
