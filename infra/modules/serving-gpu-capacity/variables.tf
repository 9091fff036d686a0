variable "platform" {
  description = "What stage 1 made: names, network, key, boundary, alerts and the tags that costs are told apart by."
  type = object({
    name                       = string
    region                     = string
    account_id                 = string
    vpc_id                     = string
    private_subnet_ids         = list(string)
    endpoint_security_group_id = string
    kms_key_arn                = string
    alerts_topic_arn           = string
    permissions_boundary_arn   = optional(string)
    tags                       = map(string)
  })
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.platform.name))
    error_message = "platform.name is 3 to 20 characters: lower-case letters, digits and inner hyphens."
  }
}

variable "instance_type" {
  description = "One GPU machine type: a scaling group with a warm pool takes no second one."
  type        = string
  default     = "g6.xlarge"
  validation {
    condition     = can(regex("^(g4dn|g5|g6|g6e|g7e|gr6|p4d|p4de|p5|p5e|p5en|p6-b200)\\.[0-9a-z-]+$", var.instance_type))
    error_message = "instance_type is an NVIDIA GPU type such as g6.xlarge, g5.2xlarge or p5.48xlarge."
  }
}

variable "max_instances" {
  description = "Most machines at once. Blue/green needs room for twice the running tasks."
  type        = number
  default     = 4
  validation {
    condition     = var.max_instances >= 2 && var.max_instances <= 100
    error_message = "max_instances is 2 to 100: with one machine, green could never start beside blue."
  }
}

variable "warm_instances" {
  description = "Stopped machines that are ready to start; 0 for none. Each costs its disk."
  type        = number
  default     = 0
  validation {
    condition     = var.warm_instances >= 0 && var.warm_instances <= 20
    error_message = "warm_instances is 0 to 20."
  }
}

variable "disk" {
  description = "Each machine's disk: size in GiB and throughput in MiB/s. Model load time is bytes over throughput."
  type = object({
    gib            = optional(number, 200)
    mib_per_second = optional(number, 500)
  })
  default = {}
  validation {
    condition     = var.disk.gib >= 100 && var.disk.gib <= 16384
    error_message = "disk.gib is 100 to 16384: the AMI and the engine's image take 40."
  }
  validation {
    condition     = var.disk.mib_per_second >= 125 && var.disk.mib_per_second <= 1000
    error_message = "disk.mib_per_second is 125 to 1000 (gp3)."
  }
}

variable "ami_parameter" {
  description = "Public SSM parameter with the id of the ECS-optimised GPU image."
  type        = string
  default     = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
  validation {
    condition     = can(regex("^/aws/service/ecs/optimized-ami/.*gpu.*/image_id$", var.ami_parameter))
    error_message = "ami_parameter is an ECS-optimised GPU image below /aws/service/ecs/optimized-ami/ that ends in /image_id."
  }
}

variable "https_egress_cidrs" {
  description = "Where machines may connect to over HTTPS besides the VPC endpoints. Empty where endpoints and an image mirror are complete."
  type        = list(string)
  default     = ["0.0.0.0/0"]
  validation {
    condition     = alltrue([for one in var.https_egress_cidrs : can(cidrhost(one, 0))])
    error_message = "https_egress_cidrs are IPv4 ranges such as 10.0.0.0/8."
  }
}
