variable "name" {
  description = "Prefix of every name, as in `nexus-small`."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is 3 to 20 characters: lower-case letters, digits and inner hyphens."
  }
}

variable "account_id" {
  description = "Account that owns the key."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id is 12 digits."
  }
}

variable "region" {
  description = "Region of the key."
  type        = string
}

variable "purpose" {
  description = "What the key protects; part of its alias."
  type        = string
  default     = "platform"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.purpose))
    error_message = "purpose is a lower-case word of at most 31 characters."
  }
}

variable "deletion_window_days" {
  description = "Days between asking for deletion and losing all that was encrypted."
  type        = number
  default     = 30
  validation {
    condition     = var.deletion_window_days >= 7 && var.deletion_window_days <= 30
    error_message = "KMS accepts 7 to 30 days."
  }
}

variable "rotation_days" {
  description = "Days between two rotations of the key material."
  type        = number
  default     = 365
  validation {
    condition     = var.rotation_days >= 90 && var.rotation_days <= 2560
    error_message = "KMS accepts 90 to 2560 days."
  }
}
