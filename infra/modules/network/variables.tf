variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "account_id" {
  description = "Account whose flow logs these are."
  type        = string
}

variable "region" {
  description = "Region; part of the endpoints' service names."
  type        = string
}

variable "vpc_cidr" {
  description = "Addresses of the network. Each private subnet takes a sixteenth of them, each public one a 256th."
  type        = string
  default     = "10.20.0.0/16"
  validation {
    condition = can(cidrhost(var.vpc_cidr, 0)) && try(
      tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 20, false
    )
    error_message = "vpc_cidr is an IPv4 block between /16 and /20: AWS takes no larger one, and a public subnet needs a /28."
  }
}

variable "availability_zones" {
  description = "Two or three zones, by full name: letters differ between regions, and GPUs are not in every zone."
  type        = list(string)
  validation {
    condition     = contains([2, 3], length(distinct(var.availability_zones)))
    error_message = "availability_zones names two or three different zones: a load balancer needs two."
  }
}

variable "nat" {
  description = "Way out of the private subnets: `none` (endpoints only), `one` (cheap, one zone's fault stops it), `per_zone`."
  type        = string
  default     = "one"
  validation {
    condition     = contains(["none", "one", "per_zone"], var.nat)
    error_message = "nat is none, one or per_zone."
  }
}

variable "interface_endpoints" {
  description = "AWS services reached without leaving the network, as in `ecr.api`; each costs by the hour and zone."
  type        = set(string)
  default     = []
}

variable "flow_log_days" {
  description = "Days that records of connections are kept."
  type        = number
  default     = 365
  validation {
    condition     = contains([30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557], var.flow_log_days)
    error_message = "CloudWatch keeps logs for 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192 or 2557 days."
  }
}

variable "kms_key_arn" {
  description = "Key that encrypts the flow logs."
  type        = string
}

variable "permissions_boundary_arn" {
  description = "Ceiling of the roles made here; null sets none."
  type        = string
  default     = null
}

variable "alerts_topic_arn" {
  description = "Topic that hears of a NAT gateway out of ports."
  type        = string
}
