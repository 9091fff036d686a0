# What a pipeline of SageMaker does beside reading and writing: it starts jobs under its own role and registers models.

locals {
  run_jobs = {
    Sid    = "RunJobs"
    Effect = "Allow"
    Action = [
      "sagemaker:AddTags", "sagemaker:CreateModel", "sagemaker:CreateProcessingJob", "sagemaker:CreateTrainingJob",
      "sagemaker:CreateTransformJob", "sagemaker:DescribeModel", "sagemaker:DescribeProcessingJob",
      "sagemaker:DescribeTrainingJob", "sagemaker:DescribeTransformJob", "sagemaker:StopProcessingJob",
      "sagemaker:StopTrainingJob", "sagemaker:StopTransformJob",
    ]
    Resource = [
      for kind in ["model", "processing-job", "training-job", "transform-job"] :
      "arn:aws:sagemaker:${local.here}:${kind}/*"
    ]
  }
  register_models = {
    Sid    = "RegisterModels"
    Effect = "Allow"
    Action = [
      "sagemaker:AddTags", "sagemaker:CreateModelPackage", "sagemaker:DescribeModelPackage",
      "sagemaker:DescribeModelPackageGroup", "sagemaker:ListModelPackages", "sagemaker:UpdateModelPackage",
    ]
    Resource = [
      "arn:aws:sagemaker:${local.here}:model-package/${var.name}*",
      "arn:aws:sagemaker:${local.here}:model-package-group/${var.name}*",
    ]
  }
  pass_own_role = {
    Sid       = "PassOwnRole"
    Effect    = "Allow"
    Action    = "iam:PassRole"
    Resource  = "arn:aws:iam::${var.account_id}:role/${var.name}-sagemaker"
    Condition = { StringEquals = { "iam:PassedToService" = "sagemaker.amazonaws.com" } }
  }
  track_runs = {
    Sid    = "TrackRuns"
    Effect = "Allow"
    Action = [
      "sagemaker-mlflow:AccessUI", "sagemaker-mlflow:CreateExperiment", "sagemaker-mlflow:CreateModelVersion",
      "sagemaker-mlflow:CreateRegisteredModel", "sagemaker-mlflow:CreateRun", "sagemaker-mlflow:GetExperiment",
      "sagemaker-mlflow:GetExperimentByName", "sagemaker-mlflow:GetRun", "sagemaker-mlflow:ListArtifacts",
      "sagemaker-mlflow:LogBatch", "sagemaker-mlflow:LogInputs", "sagemaker-mlflow:LogMetric",
      "sagemaker-mlflow:LogModel", "sagemaker-mlflow:LogParam", "sagemaker-mlflow:SearchExperiments",
      "sagemaker-mlflow:SearchRuns", "sagemaker-mlflow:SetTag", "sagemaker-mlflow:UpdateRun",
    ]
    Resource = "arn:aws:sagemaker:${local.here}:mlflow-tracking-server/${var.name}*"
  }
}
