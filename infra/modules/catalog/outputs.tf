output "database" {
  description = "Name of the database."
  value       = aws_glue_catalog_database.this.name
}

output "job_name" {
  description = "Name of the job."
  value       = aws_glue_job.data.name
}

output "security_configuration" {
  description = "Glue's name for how logs, bookmarks and data are encrypted."
  value       = aws_glue_security_configuration.this.name
}

output "workgroup" {
  description = "Athena's workgroup."
  value       = aws_athena_workgroup.this.name
}
