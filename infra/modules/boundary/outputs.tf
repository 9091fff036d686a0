output "arn" {
  description = "ARN of the policy, to be set as `permissions_boundary` of roles."
  value       = aws_iam_policy.boundary.arn
}
