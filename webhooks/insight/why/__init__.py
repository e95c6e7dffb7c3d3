"""Why did nothing arrive? An answer for each webhook, from the stored rows and the object as it is now. Reads only.

question   ``why()``: finds the change that is asked about, and asks the modules below for each webhook
unstored   verdicts about changes that left nothing, by the object as it is now
stored     verdicts about a change that is stored: by its delivery, its failed Event, its skip, or none of them
causes     the causes, a verdict as a value, and shared sentences
rows       a stored change and its rows, as far as a user may see them
"""

from webhooks.insight.why.causes import Cause, Target, Verdict, not_chosen
from webhooks.insight.why.question import UnknownObject, why
from webhooks.insight.why.rows import StoredChange

__all__ = ["Cause", "StoredChange", "Target", "UnknownObject", "Verdict", "not_chosen", "why"]
