"""Online-learning control of GPU clocks and routing for energy-efficient, SLO-aware LLM serving.

Four interfaces compose (`voltana.ports`): Predictor, Controller, Router, Actuator. Everything else
is a value that flows between them (`voltana.values`) or a world they are plugged into: the
simulated cluster (`voltana.plant`) or a real serving engine.
"""

__version__ = "0.1.0"
