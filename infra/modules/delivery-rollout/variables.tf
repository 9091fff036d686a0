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

variable "serving" {
  description = "What stage 2 made: the service, its listeners and target groups, its roles, and the alarms that turn a rollout back."
  type = object({
    cluster_name         = string
    service_name         = string
    listener_arns        = object({ production = string, test = string })
    target_groups        = map(object({ arn = string, name = string }))
    role_arns            = map(string)
    rollback_alarm_names = list(string)
  })
  validation {
    condition     = length(var.serving.rollback_alarm_names) > 0
    error_message = "serving.rollback_alarm_names is empty: nothing would turn a bad version back."
  }
  validation {
    condition     = sort(keys(var.serving.target_groups)) == tolist(["blue", "green"])
    error_message = "serving.target_groups are blue and green."
  }
}

variable "artifact_bucket_arn" {
  description = "Bucket that holds what is rolled out (appspec and task definition)."
  type        = string
}

variable "canary" {
  description = "Share of the traffic in percent that green gets first, and for how many minutes."
  type = object({
    percent = optional(number, 10)
    minutes = optional(number, 10)
  })
  default = {}
  validation {
    condition     = var.canary.percent >= 1 && var.canary.percent <= 99 && var.canary.minutes >= 1 && var.canary.minutes <= 2880
    error_message = "canary.percent is 1 to 99, canary.minutes 1 to 2880."
  }
}

variable "test_minutes" {
  description = "Minutes that green waits on the test listener for somebody to say go; 0 goes on at once. Without a word in time the rollout stops."
  type        = number
  default     = 0
  validation {
    condition     = var.test_minutes >= 0 && var.test_minutes <= 2880
    error_message = "test_minutes is 0 to 2880."
  }
}

variable "bake_minutes" {
  description = "Minutes that blue stays after green has all the traffic."
  type        = number
  default     = 30
  validation {
    condition     = var.bake_minutes >= 0 && var.bake_minutes <= 2880
    error_message = "bake_minutes is 0 to 2880."
  }
}
