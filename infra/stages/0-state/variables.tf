variable "name" {
  description = "Prefix of every name, as in `nexus-small`; the same in all stages."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name is 3 to 20 characters: lower-case letters, digits and inner hyphens."
  }
}

variable "account_id" {
  description = "Account that everything is made in."
  type        = string
  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id is 12 digits."
  }
}

variable "region" {
  description = "Region that the state lies in."
  type        = string
}

variable "force_destroy" {
  description = "Whether destroying this stage also deletes the states in the bucket."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Further tags of every resource, as for cost allocation."
  type        = map(string)
  default     = {}
}
