"""The process that does one job: started by a worker, ended with the job.

It is told its settings through standard input, so that no password stands on its command line.
"""

from __future__ import annotations

import sys

from ram_backend.worker.logs import configure_logging
from ram_backend.worker.main import do_job
from ram_backend.worker.orders import Orders, accept


def main() -> None:
    """Reads the orders and does the job, as RQ wants it done."""
    orders = Orders.from_json(sys.stdin.read())
    configure_logging(orders.settings.log_level, orders.settings.log_format)
    accept(orders)
    do_job(orders)


if __name__ == "__main__":
    main()
