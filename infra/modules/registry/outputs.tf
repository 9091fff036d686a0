output "repository_urls" {
  description = "Image → URL to push it to."
  value       = { for image, one in aws_ecr_repository.this : image => one.repository_url }
}

output "repository_arns" {
  description = "ARNs of the repositories, for policies."
  value       = [for one in aws_ecr_repository.this : one.arn]
}
