variable "platform" {
  description = "What stage 1 made: names, key, boundary, alerts."
  type = object({
    name                     = string
    region                   = string
    account_id               = string
    kms_key_arn              = string
    alerts_topic_arn         = string
    permissions_boundary_arn = optional(string)
  })
}

variable "purpose" {
  description = "What the project is for, in one word: part of its name."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z-]{1,18}[a-z]$", var.purpose))
    error_message = "purpose is 3 to 20 lower-case letters and inner hyphens."
  }
}

variable "description" {
  description = "What the project does, in a sentence."
  type        = string
}

variable "buildspec" {
  description = "Path of its words, from the repository's root."
  type        = string
  validation {
    condition     = can(regex("^infra/delivery/buildspecs/[a-z-]+\\.yml$", var.buildspec))
    error_message = "buildspec is a file infra/delivery/buildspecs/NAME.yml."
  }
}

variable "artifact_bucket_arn" {
  description = "Bucket through which the pipeline's steps exchange files."
  type        = string
}

variable "environment" {
  description = "Environment variables. No secrets: they are shown in the console."
  type        = map(string)
  default     = {}
  validation {
    condition     = alltrue([for name in keys(var.environment) : !can(regex("(?i)secret|password|token|key", name))])
    error_message = "environment is readable by everybody who sees the project: a secret belongs into Secrets Manager."
  }
}

variable "builds_images" {
  description = "True lets Docker run in the build (privileged)."
  type        = bool
  default     = false
}

variable "pushes_to" {
  description = "ARNs of the ECR repositories that the build pushes to."
  type        = list(string)
  default     = []
}

variable "reads_scans_of" {
  description = "ARNs of the ECR repositories whose scan findings the build reads."
  type        = list(string)
  default     = []
}

variable "rolls_out" {
  description = "What the build may roll out: the service, CodeDeploy's names, roles that its tasks take, alarms that turn it back, the bucket of its models, and a secret with the API key that its checks ask with. Null: nothing."
  type = object({
    application_name       = string
    deployment_group_name  = string
    deployment_config_name = string
    cluster_name           = string
    service_name           = string
    task_role_arns         = list(string)
    alarm_names            = list(string)
    models_bucket_arn      = string
    api_key_secret_arn     = optional(string)
  })
  default = null
}

variable "compute_type" {
  description = "Size of the build machine."
  type        = string
  default     = "BUILD_GENERAL1_MEDIUM"
  validation {
    condition     = can(regex("^BUILD_GENERAL1_(SMALL|MEDIUM|LARGE|XLARGE|2XLARGE)$", var.compute_type))
    error_message = "compute_type is BUILD_GENERAL1_SMALL, _MEDIUM, _LARGE, _XLARGE or _2XLARGE."
  }
}

variable "timeout_minutes" {
  description = "Minutes after which a build is stopped."
  type        = number
  default     = 60
  validation {
    condition     = var.timeout_minutes >= 5 && var.timeout_minutes <= 480
    error_message = "timeout_minutes is 5 to 480."
  }
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
