variable "platform" {
  description = "What stage 1 made: the prefix of every name, and the key that encrypts logs."
  type = object({
    name        = string
    kms_key_arn = string
  })
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.platform.name))
    error_message = "platform.name is 3 to 20 characters: lower-case letters, digits and inner hyphens."
  }
}

variable "capacity_provider_names" {
  description = "Capacity providers of EC2 instances that the cluster may use beside Fargate."
  type        = list(string)
  default     = []
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps log lines."
  type        = number
  default     = 365
  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653 days."
  }
}
