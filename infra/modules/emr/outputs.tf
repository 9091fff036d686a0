output "application_id" {
  description = "Id of the application, for StartJobRun."
  value       = aws_emrserverless_application.this.id
}

output "application_arn" {
  description = "ARN of the application."
  value       = aws_emrserverless_application.this.arn
}
