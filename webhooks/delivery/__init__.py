"""What a worker does: Events to Deliveries, each of which is sent until it succeeds or is given up."""
