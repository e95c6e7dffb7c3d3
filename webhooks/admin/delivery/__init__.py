"""The pages of deliveries.

list     the list; retry, resend, discard
page     one delivery: verdict, change, timeline and lane
attempt  one attempt of it, also as a command of curl
"""
