"""What becomes of an Event: one Delivery for each webhook, until it succeeds or is given up.

These modules read and write rows, and decide. None knows how a request is sent: ``workers`` does.

next_turn       what a worker does next
dispatch        Events -> Deliveries
claims          due Deliveries -> a worker, under a lease
large_events    the bytes of large events that a worker holds and reads
outcomes        the attempt is recorded, the lane goes on
policy          a failed delivery is sent again, or given up; its webhook is paused, probed, resumed or disabled
known_webhooks  the webhooks as a worker knows them
counting        attempts are counted by webhook and kind of error
rollup          the counts of attempts and skips are added to the statistics
wake_up         the one name that wakes a worker
sweep           the periodic work: expired leases, blocked lanes, statistics, retention
retention       old deliveries, events and skips are deleted in pieces
runs            runs are taken forward step by step
scan_floors     where a scan of an index begins
"""
