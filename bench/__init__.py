"""The benchmark: medians beside ansible-core and go-task, as ratios, in one run on one machine."""
