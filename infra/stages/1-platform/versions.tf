terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  backend "s3" {} # what stage 0 wrote: terraform init -backend-config=../backend.hcl -backend-config=key=1-platform.tfstate
}
