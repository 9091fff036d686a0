variable "platform" {
  description = "What stage 1 made: names, network, key, alerts."
  type = object({
    name               = string
    region             = string
    account_id         = string
    vpc_id             = string
    private_subnet_ids = list(string)
    kms_key_arn        = string
    alerts_topic_arn   = string
  })
}

variable "client_security_group_id" {
  description = "Security group of the gateways' tasks: the only ones that may connect."
  type        = string
}

variable "postgres_version" {
  description = "Major version of PostgreSQL; RDS chooses and updates the minor one."
  type        = string
  default     = "17"
  validation {
    condition     = can(regex("^1[5-9]$", var.postgres_version))
    error_message = "postgres_version is a major version from 15 to 19."
  }
}

variable "capacity_units" {
  description = "Least and most Aurora capacity units (2 GiB of memory each). With min 0 the database sleeps, and the first caller waits some 15 s."
  type = object({
    min = optional(number, 0.5)
    max = optional(number, 4)
  })
  default = {}
  validation {
    condition     = var.capacity_units.min >= 0 && var.capacity_units.max >= 1 && var.capacity_units.max <= 256 && var.capacity_units.min <= var.capacity_units.max
    error_message = "capacity_units.min is 0 or more, max 1 to 256 and not below min."
  }
}

variable "instances" {
  description = "1, or 2 and more for a standby in another zone."
  type        = number
  default     = 1
  validation {
    condition     = var.instances >= 1 && var.instances <= 3
    error_message = "instances is 1 to 3."
  }
}

variable "backup_days" {
  description = "Days back to which the database can be restored, to the second."
  type        = number
  default     = 14
  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days is 1 to 35."
  }
}

variable "is_deletion_protected" {
  description = "True refuses to delete the database, and so to destroy the stage."
  type        = bool
  default     = true
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
