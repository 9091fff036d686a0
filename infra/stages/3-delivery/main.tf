# From a commit to the running service: builds, the gate of the image's scan, blue/green with the alarms of stage 2.

locals {
  platform   = jsondecode(file(var.platform_file))
  serving    = jsondecode(file(var.serving_file))
  repository = local.platform.ecr_repository_urls["serve"]
  # ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME
  repository_name = join("/", slice(split("/", local.repository), 1, length(split("/", local.repository))))
  repository_arn  = "arn:aws:ecr:${local.platform.region}:${local.platform.account_id}:repository/${local.repository_name}"

  rollout = {
    application_name       = module.rollout.application_name
    deployment_group_name  = module.rollout.deployment_group_name
    deployment_config_name = module.rollout.deployment_config_name
  }
  # What `nexus deploy` reads of all three stages. Packed: a build takes 5,500 characters of variables (AWS CodeBuild user
  # guide, "Environment variables in build environments", read 2026-11).
  handed_on = base64gzip(jsonencode({ platform = local.platform, serving = local.serving, delivery = local.rollout }))

  builds = {
    check = {
      description  = "Style, types, tests, the gates of data and model, load, plans: make check test gate slo plan-check."
      compute_type = "BUILD_GENERAL1_LARGE" # tests load models: 8 GB of memory and more
      environment  = {}
    }
    image = {
      description   = "Builds containers/serve and pushes it, named by its commit."
      builds_images = true
      environment   = { REPOSITORY = local.repository }
      pushes_to     = [local.repository_arn]
    }
    gate = {
      description    = "Judges the image: its packages and the registry's scan."
      environment    = { MAX_SEVERITY = var.max_severity }
      reads_scans_of = [local.repository_arn]
    }
    deploy = {
      description = "Rolls out blue/green: make deploy."
      environment = { PLATFORM = local.platform.name, HANDED_ON = local.handed_on }
      rolls_out = merge(local.rollout, {
        cluster_name       = local.serving.cluster_name
        service_name       = local.serving.service_name
        task_role_arns     = values(local.serving.role_arns)
        alarm_names        = local.serving.rollback_alarm_names
        models_bucket_arn  = local.platform.models_bucket_arn
        api_key_secret_arn = var.api_key_secret_arn
      })
    }
  }
}

module "build" {
  source              = "../../modules/delivery-build"
  for_each            = local.builds
  platform            = local.platform
  purpose             = each.key
  description         = each.value.description
  buildspec           = "infra/delivery/buildspecs/${each.key}.yml"
  artifact_bucket_arn = module.pipeline.artifact_bucket_arn
  environment         = each.value.environment
  builds_images       = try(each.value.builds_images, false)
  pushes_to           = try(each.value.pushes_to, [])
  reads_scans_of      = try(each.value.reads_scans_of, [])
  rolls_out           = try(each.value.rolls_out, null)
  compute_type        = try(each.value.compute_type, "BUILD_GENERAL1_MEDIUM")
  timeout_minutes     = contains(["check", "deploy"], each.key) ? 180 : 60
  log_retention_days  = var.log_retention_days
}

module "rollout" {
  source              = "../../modules/delivery-rollout"
  platform            = local.platform
  serving             = local.serving
  artifact_bucket_arn = module.pipeline.artifact_bucket_arn
  canary              = var.canary
  test_minutes        = var.test_minutes
  bake_minutes        = var.bake_minutes
}

module "pipeline" {
  source         = "../../modules/delivery-pipeline"
  platform       = local.platform
  source_code    = var.source_code
  projects       = { for purpose, one in module.build : purpose => one.name }
  needs_approval = var.needs_approval
}
