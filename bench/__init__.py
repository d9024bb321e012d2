"""What ``make bench`` measures: one module a group, each measure named, figures compared only within one run."""
