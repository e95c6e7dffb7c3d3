"""What a worker does with Events: one Delivery for each webhook, sent until it succeeds or is given up.

runner        the loop: claim, dispatch, collect outcomes, sweep
dispatch      Events -> Deliveries
claims        due Deliveries -> this worker, under a lease
compose       a Delivery -> a request: URL, headers and body
sender        the thread that sends, in the turns of fair_queue
breaker       faults of our own, which count no attempt
outcomes      the attempt is recorded, the lane goes on
policy        a failed delivery is sent again, or given up; its webhook is paused, probed, resumed or disabled
mails         e-mails to the operators
counting      attempts are counted by webhook and kind of error
rollup        the counts of attempts and skips are added to the statistics
wake_up       the one name that wakes a worker
sweep         the periodic work: expired leases, blocked lanes, statistics, retention
retention     old deliveries, events and skips are deleted in pieces
runs          runs are taken forward step by step
scan_floors   where a scan of an index begins
"""
