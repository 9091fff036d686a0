"""The line through the stages: the only place that knows their order."""

from nexus_llm.pipeline.line import PlannedStage, RunResult, StageResult, Workspace, execute, plan, stages

__all__ = ["PlannedStage", "RunResult", "StageResult", "Workspace", "execute", "plan", "stages"]
