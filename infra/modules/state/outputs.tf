output "bucket" {
  description = "Name of the bucket; known only once it is closed to the public and to clear text."
  value       = aws_s3_bucket_policy.state.bucket
}
