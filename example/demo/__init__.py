"""What ``scripts/demo`` runs: the example site, as its operator would, and a look at what a change sets off.

==============  =======================================================================
run             one start: its directory, ports and secrets, and its programs' environment
ports           ports that nobody uses
supervise       supervisord and all that it starts, and that nothing of it stays behind
startup         the database, then the programs, until each has answered
valkey          the demo's Redis
receiver        prints and keeps what it gets
guard           stops everything when the demo was killed
site            the site's REST API
inbox           what the receiver got
ledger          the Deliveries and Attempts that were recorded
signatures      checks signatures without the code that made them
roundtrip       ``--once``: create, update, delete, retry, each checked
showcase        one change to look at, then what comes in until Ctrl-C
==============  =======================================================================
"""
