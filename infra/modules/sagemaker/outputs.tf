output "model_package_group" {
  description = "Name of the group that holds the model's versions."
  value       = aws_sagemaker_model_package_group.this.model_package_group_name
}

output "security_group_id" {
  description = "Group of training machines, for `train.sagemaker.security_group_ids`."
  value       = aws_security_group.training.id
}

output "pipeline_arn" {
  description = "ARN of the pipeline; null where none was given."
  value       = one(aws_sagemaker_pipeline.this[*].arn)
}

output "mlflow_arn" {
  description = "ARN of the tracking server, which is also its tracking URI; null where there is none."
  value       = one(aws_sagemaker_mlflow_tracking_server.this[*].arn)
}
