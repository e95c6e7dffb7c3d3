"""What ``scripts/demo`` runs: the example site with its worker, Valkey and a receiver of webhooks."""
