variable "platform_file" {
  description = "JSON document that stage 1 wrote (terraform output -json platform)."
  type        = string
  validation {
    condition     = fileexists(var.platform_file)
    error_message = "platform_file does not exist: apply stage 1 and write its outputs (see README.md)."
  }
}

variable "serving_file" {
  description = "JSON document that stage 2 wrote (terraform output -json serving)."
  type        = string
  validation {
    condition     = fileexists(var.serving_file)
    error_message = "serving_file does not exist: apply stage 2 and write its outputs (see README.md)."
  }
}

variable "source_code" {
  description = "Where commits come from: a confirmed CodeConnections connection, OWNER/REPOSITORY, branch."
  type = object({
    connection_arn = string
    repository     = string
    branch         = optional(string, "main")
  })
}

variable "canary" {
  description = "Share of the traffic in percent that green gets first, and for how many minutes."
  type = object({
    percent = optional(number, 10)
    minutes = optional(number, 10)
  })
  default = {}
}

variable "test_minutes" {
  description = "Minutes that green waits on the test listener for somebody to say go; 0 goes on at once."
  type        = number
  default     = 0
}

variable "bake_minutes" {
  description = "Minutes that blue stays after green has all the traffic."
  type        = number
  default     = 30
}

variable "api_key_secret_arn" {
  description = "Secret of Secrets Manager that holds an API key of the gateway: the rollout's checks ask with it. Null where the gateway has no keys."
  type        = string
  default     = null
}

variable "needs_approval" {
  description = "True waits for somebody's word between gate and rollout."
  type        = bool
  default     = true
}

variable "max_severity" {
  description = "Worst finding of the image's scan that is let through: NONE, LOW, MEDIUM or HIGH."
  type        = string
  default     = "MEDIUM"
  validation {
    condition     = contains(["NONE", "LOW", "MEDIUM", "HIGH"], var.max_severity)
    error_message = "max_severity is NONE, LOW, MEDIUM or HIGH."
  }
}

variable "log_retention_days" {
  description = "Days that CloudWatch keeps log lines."
  type        = number
  default     = 365
}
