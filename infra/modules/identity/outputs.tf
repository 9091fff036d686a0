output "role_arns" {
  description = "glue, emr, sagemaker, batch-job, batch-execution, batch-instance → ARN of the role."
  value       = { for one, role in aws_iam_role.this : one => role.arn }
}

output "batch_instance_profile_arn" {
  description = "Profile that Batch's machines carry."
  value       = aws_iam_instance_profile.batch.arn
}

output "github_role_arn" {
  description = "Role that workflows assume; null where none was asked for."
  value       = one(aws_iam_role.github[*].arn)
}
