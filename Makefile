# Siltstone. `make help` lists what there is.
include scripts/test.mk
