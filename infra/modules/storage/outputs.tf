output "bucket_names" {
  description = "data, models, logs → name of the bucket; known only once its policy is in place."
  value       = { for one in keys(local.names) : one => aws_s3_bucket_policy.this[one].bucket }
}

output "bucket_arns" {
  description = "data, models, logs → ARN of the bucket."
  value       = local.arns
}

output "replica_bucket_names" {
  description = "data, models → name of the copy in the second region; empty where nothing is copied."
  value       = { for one, bucket in aws_s3_bucket.replica : one => bucket.bucket }
}
