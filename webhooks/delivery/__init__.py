"""What a worker does with Events: one Delivery for each webhook, sent until it succeeds or is given up.

runner        the loop: claim, dispatch, collect outcomes, maintain
dispatch      Events -> Deliveries
claims        due Deliveries -> this worker, under a lease
request       a Delivery -> URL, headers and body
sender        the thread that sends, in the turns of fair_queue
breaker       faults of our own, which count no attempt
retry_policy  what follows from an outcome, such as a 410, for the delivery and for its webhook
outcomes      the attempt is recorded, the lane goes on
health        a webhook is paused, probed, resumed or disabled
maintenance   expired leases, blocked lanes, retention
"""
