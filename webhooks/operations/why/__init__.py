"""Why did nothing arrive? An answer for each webhook, from the stored rows and the object as it is now. Reads only.

answers        ``why()``: finds the change that is asked about, and asks the modules below for each webhook
recorded       verdicts about a change that is stored: its delivery, its failed Event, its skip, or none of them
deliveries     verdicts about a change that has a delivery
unrecorded     verdicts about changes that left nothing
changes        a stored change, and its rows
present        the object as it is now, compared with its last Event
viewer         the parts that a user may see
verdicts       the causes, a verdict as a value, and shared sentences
"""

from webhooks.operations.why.answers import UnknownObject, why
from webhooks.operations.why.changes import StoredChange
from webhooks.operations.why.recorded import not_chosen
from webhooks.operations.why.verdicts import Cause, Target, Verdict

__all__ = ["Cause", "StoredChange", "Target", "UnknownObject", "Verdict", "not_chosen", "why"]
