"""edgepipe from Python: a cluster that plans, generates and trains.

connect() ─▶ Cluster     what a program calls; it waits
             Session     the same as coroutines of the background loop
             HeldModel   a model that stays open between answers
"""

from edgepipe.api.cluster import Cluster, connect
from edgepipe.api.cut import Cut
from edgepipe.api.generation import Generation
from edgepipe.api.model_plan import ModelPlan
from edgepipe.coordinator.train_job import Trained

__all__ = ["Cluster", "Cut", "Generation", "ModelPlan", "Trained", "connect"]
