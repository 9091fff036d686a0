# Everything that carries the tag `backup = daily` is backed up: databases and volumes ask for it themselves. Buckets do
# not need it: their versions and copies do the same for less.

resource "aws_backup_vault" "this" {
  name          = var.name
  kms_key_arn   = var.kms_key_arn
  force_destroy = var.force_destroy
}

resource "aws_backup_vault_lock_configuration" "this" {
  count             = var.lock_min_days == null ? 0 : 1
  backup_vault_name = aws_backup_vault.this.name
  # No changeable_for_days: with it the lock could never be lifted again, by nobody.
  min_retention_days = var.lock_min_days
}

resource "aws_backup_plan" "daily" {
  name = "${var.name}-daily"
  rule {
    rule_name         = "daily"
    target_vault_name = aws_backup_vault.this.name
    schedule          = "cron(0 3 * * ? *)"
    start_window      = 60
    completion_window = 360
    lifecycle {
      delete_after = var.keep_days
    }
    dynamic "copy_action" {
      for_each = var.copies ? [var.copy_vault_arn] : []
      content {
        destination_vault_arn = copy_action.value
        lifecycle {
          delete_after = var.keep_days
        }
      }
    }
  }
}

resource "aws_iam_role" "backup" {
  name                 = "${var.name}-backup"
  permissions_boundary = var.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "backup.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "backup" {
  for_each = toset(["Backup", "Restores"])
  role     = aws_iam_role.backup.name
  # AWS keeps these as kinds of resources appear; the selection below says which ones are ever touched.
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSBackupServiceRolePolicyFor${each.value}"
}

resource "aws_backup_selection" "tagged" {
  name         = "${var.name}-tagged"
  plan_id      = aws_backup_plan.daily.id
  iam_role_arn = aws_iam_role.backup.arn
  resources    = ["*"] # of these, only what carries both tags

  condition {
    string_equals {
      key   = "aws:ResourceTag/backup"
      value = "daily"
    }
    string_equals {
      key   = "aws:ResourceTag/platform"
      value = var.name
    }
  }
}

resource "aws_backup_vault_notifications" "this" {
  backup_vault_name   = aws_backup_vault.this.name
  sns_topic_arn       = var.alerts_topic_arn
  backup_vault_events = ["BACKUP_JOB_FAILED", "COPY_JOB_FAILED", "RESTORE_JOB_COMPLETED"]
}
