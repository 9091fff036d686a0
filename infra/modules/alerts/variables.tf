variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account whose services may publish."
  type        = string
}

variable "kms_key_arn" {
  description = "Key that encrypts the messages."
  type        = string
}

variable "emails" {
  description = "Addresses that receive every alert; each must confirm once."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for one in var.emails : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", one))])
    error_message = "emails holds a word that is no address."
  }
}
