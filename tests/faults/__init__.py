"""Faults on purpose: a small real study is killed, starved, corrupted and started twice, and must end the same.

    python -m tests.faults --out outputs/faults     # the long form: about two hundred faults, a report
    python -m tests.faults --short                  # what `make test` runs

After each fault the study is started again until it ends. Then no observed trial may be lost, and the trials must
be exactly those of an undisturbed run, apart from times.
"""
