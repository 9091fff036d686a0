output "instance_id" {
  description = "Id of the box: `aws ssm start-session --target ID`."
  value       = aws_instance.box.id
}
