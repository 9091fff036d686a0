variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "usd_per_month" {
  description = "What a month may cost, in US dollars."
  type        = number
  validation {
    condition     = var.usd_per_month > 0
    error_message = "usd_per_month is more than 0: a budget of nothing warns for ever."
  }
}

variable "cost_tag" {
  description = "Tag and value that spending is counted by, as in `{ key = \"project\", value = \"nexus\" }`; null counts the whole account. The tag must be activated for cost allocation first."
  type        = object({ key = string, value = string })
  default     = null
}

variable "warn_at_percent" {
  description = "Shares of the budget, in percent, at which actual spending is reported."
  type        = set(number)
  default     = [50, 80, 100]
  validation {
    condition     = length(var.warn_at_percent) > 0 && length(var.warn_at_percent) <= 4
    error_message = "give one to four shares: AWS takes five notifications a budget, and the forecast is one."
  }
}

variable "anomaly_usd" {
  description = "Unusual spending, in US dollars a day above what was expected, that is reported; null watches for none."
  type        = number
  default     = 50
  validation {
    condition     = var.anomaly_usd == null || try(var.anomaly_usd > 0, false)
    error_message = "anomaly_usd is null or more than 0."
  }
}

variable "alerts_topic_arn" {
  description = "Topic that hears of both."
  type        = string
}
