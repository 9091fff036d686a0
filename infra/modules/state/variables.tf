variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account that owns the state; part of the bucket's name, which is unique in the whole world."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the state: it holds every ARN, and what a provider forgot to call sensitive."
  type        = string
}

variable "keep_versions_days" {
  description = "Days that an overwritten state can still be brought back."
  type        = number
  default     = 90
  validation {
    condition     = var.keep_versions_days >= 7
    error_message = "keep at least a week: a broken state is often noticed late."
  }
}

variable "force_destroy" {
  description = "Whether destroying the bucket also deletes every state in it."
  type        = bool
  default     = false
}
