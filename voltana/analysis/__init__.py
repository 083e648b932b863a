"""Control analysis: the plant and every controller as linear systems of python-control."""

from voltana.extras import require

require("analysis", "voltana.analysis")
