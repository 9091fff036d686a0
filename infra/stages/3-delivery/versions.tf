terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  # Bucket, key and region come from stage 0: terraform init -backend-config=FILE.
  backend "s3" {}
}

provider "aws" {
  region              = local.platform.region
  allowed_account_ids = [local.platform.account_id]
  default_tags {
    tags = merge(local.platform.tags, { stage = "3-delivery" })
  }
}
