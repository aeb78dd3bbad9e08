"""Build the small base models and keep them in the cache: `python -m jobs.pretrain model=small`."""

from __future__ import annotations

from jobs.configure import parse, run_settings
from jobs.driver import absolute, main, share, start
from jobs.usage import main_arguments


def job() -> int:
    """Build what is missing; prints the folders."""
    settings = absolute(run_settings(parse(main_arguments("pretrain", __doc__ or ""))))
    with start(settings) as begun:
        shared = share(settings, begun, needs_expert=True, runs=0)
    print(f"base    {shared.base}\nexpert  {shared.expert}")
    return 0


if __name__ == "__main__":
    main(job)
