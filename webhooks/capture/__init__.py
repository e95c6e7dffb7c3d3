"""From a change to its Event, all in the transaction of the change itself."""
