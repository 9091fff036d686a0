output "name" {
  description = "Name of the pipeline."
  value       = aws_codepipeline.this.name
}

output "artifact_bucket" {
  description = "Bucket through which the steps exchange files."
  value       = aws_s3_bucket.this.bucket
}

output "artifact_bucket_arn" {
  description = "ARN of that bucket, known before it is made: builds and rollout may read it."
  value       = local.bucket_arn
}
