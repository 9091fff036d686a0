variable "name" {
  description = "Prefix of every role, and of what the roles may touch."
  type        = string
}

variable "account_id" {
  description = "Account of the roles."
  type        = string
}

variable "region" {
  description = "Region in which the jobs run."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of data, models and logs."
  type        = string
}

variable "data_bucket_arn" {
  description = "Bucket with corpora, artifacts and checkpoints."
  type        = string
}

variable "models_bucket_arn" {
  description = "Bucket with models that are served."
  type        = string
}

variable "repository_arns" {
  description = "Image repositories that jobs pull from."
  type        = list(string)
}

variable "permissions_boundary_arn" {
  description = "Ceiling of every role; null sets none."
  type        = string
  default     = null
}

variable "github" {
  description = "Repository whose workflows may push images without a stored secret; `subjects` as in `ref:refs/heads/main`."
  type = object({
    repository = string
    subjects   = optional(list(string), ["ref:refs/heads/main"])
  })
  default = null
  validation {
    # A conditional and not `||`: Terraform below 1.12 evaluates both sides of that.
    condition = var.github == null ? true : (
      can(regex("^[\\w.-]+/[\\w.-]+$", var.github.repository)) && !contains(var.github.subjects, "*")
    )
    error_message = "github.repository is OWNER/NAME, and a subject of * would let every branch and pull request push."
  }
}
