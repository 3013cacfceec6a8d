"""The figures: what Bocage takes, beside its peers, in the same run. `script/bench` runs them."""
