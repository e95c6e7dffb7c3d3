from django.urls import include, path

from project.urls import urlpatterns as of_the_example

urlpatterns = [*of_the_example, path("grappelli/", include("grappelli.urls"))]
