"""What a worker does with Events: one Delivery for each webhook, sent until it succeeds or is given up.

worker        the loop: claim, dispatch, collect outcomes, maintain
dispatch      Events -> Deliveries
claims        due Deliveries -> this worker, under a lease
request       a Delivery -> URL, headers and body
sender        the threads that send, in the turns of fair_queue
outcomes      the attempt is recorded, the lane goes on; retry_policy says when the next attempt is due
health        a webhook is paused, probed, resumed or disabled
maintenance   expired leases, blocked lanes, retention
"""
