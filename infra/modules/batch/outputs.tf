output "queue_arns" {
  description = "Queue → its ARN."
  value       = { for one, queue in aws_batch_job_queue.this : one => queue.arn }
}

output "job_definition_arn" {
  description = "ARN of the data stage's job definition, with its revision."
  value       = aws_batch_job_definition.data.arn
}
