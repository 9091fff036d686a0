output "topic_arn" {
  description = "ARN of the topic; known only once its policy lets services publish."
  value       = aws_sns_topic_policy.this.arn
}
