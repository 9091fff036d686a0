output "vpc_id" {
  description = "Id of the network."
  value       = aws_vpc.this.id
}

output "vpc_cidr" {
  description = "Addresses of the network."
  value       = aws_vpc.this.cidr_block
}

output "private_subnet_ids" {
  description = "Ids of the private subnets, in the order of the zones."
  value       = [for zone in var.availability_zones : aws_subnet.private[zone].id]
}

output "public_subnet_ids" {
  description = "Ids of the public subnets, in the order of the zones."
  value       = [for zone in var.availability_zones : aws_subnet.public[zone].id]
}

output "endpoint_security_group_id" {
  description = "Group of the interface endpoints: let jobs and tasks reach it on 443."
  value       = aws_security_group.endpoints.id
}
