"""The code behind ``scripts/demo``: the example site, a worker, Valkey and a receiver under supervisord."""
